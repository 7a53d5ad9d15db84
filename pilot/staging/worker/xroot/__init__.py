"""root, roots and xroot for the lane, by the XRootD bindings."""
