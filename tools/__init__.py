"""Obtaining, starting and driving a ComfyUI: for the demo, the tests and the benchmarks."""
