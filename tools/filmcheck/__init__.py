"""What trains the check «is it a chest film, the right way up?» of :mod:`hilum.filmcheck`."""
