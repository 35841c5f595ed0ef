"""Line simulators: they stand in for the stations and publish what a machine would publish."""
