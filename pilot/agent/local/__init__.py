"""What people run on their own machine: `try`, `submit` and `status`, over the embedded server's HTTP."""
