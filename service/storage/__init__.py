"""What the service remembers: rows in a database, files in an artefact store."""
