"""Bitwise comparison of observations. Pure: numpy alone, no tolerance anywhere, no torch, no vLLM."""
