"""What better training and images of other hospitals bring: studies of the same images and folds side by side."""
