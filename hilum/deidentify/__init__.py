"""De-identify what leaves hilum: pseudonyms for UIDs, and masks over burnt-in text."""
