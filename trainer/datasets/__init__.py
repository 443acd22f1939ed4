"""Public data sets as manifests: functions from their own tables to records."""
