"""The demo: a miniature SDXL ("nano"), photographs, a dance, and the script that films them."""
