"""What draws the documentation's pictures; ``docs/draw.py`` runs it."""
