"""Memory: what a step needs at its peak, traced without computing; what freed memory becomes; what a process took."""
