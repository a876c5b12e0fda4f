"""What is written in Markdown, taken apart so that it can be tested."""
