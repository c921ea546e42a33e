"""Real processes: clusters that are started, hurt and watched on this machine."""
