"""Challenge containers: a trained model to a Docker build context, and what runs inside the container."""
