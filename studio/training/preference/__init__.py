"""Preference: votes to rewards (Bradley-Terry with ties), which pair to ask next, agreement."""
