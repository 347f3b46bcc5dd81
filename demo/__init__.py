"""A miniature SDXL ("nano") and the script that runs the whole pipeline with it on any computer."""
