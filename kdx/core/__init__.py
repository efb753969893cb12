"""What every room stands on: errors, configuration, sealed folders, preprocessing, tokenizing, Encoder."""
