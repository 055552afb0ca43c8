"""What each stack's layers do, as programs over a graph of sizes."""
