"""The main job end to end, checked: real traffic, killed leaders, nothing lost. `moot demo` shows it."""
