"""The demo: a miniature SDXL ("nano"), real photographs, a dance, and the script that films them."""
