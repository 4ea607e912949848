"""What a checkpoint's files say, read and checked before anything heavy is imported. Imports no torch."""
