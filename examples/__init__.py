"""Other trainers on mosaic-dataloader alone; see README.md."""
