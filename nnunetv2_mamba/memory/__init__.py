"""Memory: what a step needs at its peak, traced without computing; what freed memory becomes; running out of it."""
