"""Networks: models, losses, samplers, the training loop, and regrouping around a network of your own."""
