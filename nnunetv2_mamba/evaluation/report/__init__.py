"""A comparison as files for people: one HTML file to mail, figures, tables and a methods paragraph."""
