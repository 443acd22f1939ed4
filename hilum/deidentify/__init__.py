"""What leaves hilum without saying who it was: pseudonyms for UIDs, masks over burnt-in text."""
