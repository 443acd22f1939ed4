"""Public data sets: functions from their own tables to the records of a data-set table."""
