"""Finds the engines, checks their arguments and keeps the errors that they report. Private."""
