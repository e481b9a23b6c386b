"""A chat turn for engines that only take tokens: conversation to prompt, tokens to text, thoughts and calls. Pure."""
