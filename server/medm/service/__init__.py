"""The GPU server: a job store, one worker process, and the HTTP API in front of them, for Blender and for scripts."""
