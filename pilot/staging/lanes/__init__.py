"""The parent's side of transfers: which file goes which way when, who we are there, and what limits hold."""
