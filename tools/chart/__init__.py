"""Generate what the Helm chart derives: the schema of its values and their table."""
