"""Hyper-parameter mode: many points of a study, evaluated one after the other in every slot of the pod."""
