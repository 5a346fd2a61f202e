"""Hugging Face DeepseekV3, in and out."""
