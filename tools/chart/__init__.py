"""Generate what the chart of deploy/helm/hilum derives: the schema of its values and their table."""
