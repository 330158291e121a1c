"""What the subcommands of `zoo` do."""
