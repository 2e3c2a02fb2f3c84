"""What is learnt: model, data, loss and target; the built-in ones."""
