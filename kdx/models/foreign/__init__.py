"""Foreign checkpoints: reading those of open_clip, OpenAI, CLIP-KD and Hugging Face, and writing open_clip's."""
