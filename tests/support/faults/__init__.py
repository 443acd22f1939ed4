"""`make faults`: hurts a running system and checks from SQL what held."""
