"""Export to and import from Hugging Face DeepseekV3."""
