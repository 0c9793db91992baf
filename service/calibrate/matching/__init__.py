"""Calibration of matching: how deep may a neighbour's run be entered?"""
