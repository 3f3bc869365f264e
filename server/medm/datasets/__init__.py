"""Flow datasets as shots: MPI Sintel and Virtual KITTI 2, with the formats that they ship. For `medm import`."""
