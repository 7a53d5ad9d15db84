"""The ground floor: what the other floors speak about. No file, socket or process is touched here."""
