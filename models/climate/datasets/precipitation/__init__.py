"""Satellite observations of eight bands of time and the daily rain that is forecast from them, on one grid."""
