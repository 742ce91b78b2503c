"""What the page and the command line may ask for; the layer between them and the engine."""
