"""From a job's files to transfers: where each input lies, and where each output may go."""
