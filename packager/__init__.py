"""From a bundle to a Greengrass component: compile with TVM through our own schedules, verify parity, zip, write the recipe."""
