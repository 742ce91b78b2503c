"""The page: one Gradio Blocks app, our own guarded routes beside it, and the page's labels."""
