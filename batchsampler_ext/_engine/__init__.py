"""Finds the engines that compute, checks what they are given, and looks after what they report. Private."""
