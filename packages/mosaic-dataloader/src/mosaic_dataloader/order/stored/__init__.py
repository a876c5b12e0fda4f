"""Long epoch orders: computed once per machine, kept on disk, mapped by every process."""
