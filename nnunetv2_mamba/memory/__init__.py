"""The peak memory of training and prediction, traced without computing anything; and what to do when it runs out."""
