// SimCLR's random views of images, drawn for a whole batch at once. torchvision, which the authors
// use, differs in details that the comments name.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace backstop::badencoder {

/// A part of each image (float [n, C, H, W] in [0, 1]) with 8 to 100 % of its area and an aspect
/// ratio between 3:4 and 4:3, resized to the whole image and flipped horizontally with probability
/// 0.5. A part that would not fit into the image is shrunk until it does.
at::Tensor cropped(const at::Tensor& images, at::Generator& generator);

/// With probability 0.8, changes an image's brightness, contrast and saturation by a factor between
/// 0.6 and 1.4 each and rotates its hue by up to a tenth of the color circle; then, with
/// probability 0.2, converts it to grayscale. Grayscale images (C is 1) change in brightness and
/// contrast only. The order is always this one, which torchvision shuffles. The hue is rotated in
/// YIQ, where torchvision does it in HSV.
at::Tensor recolored(const at::Tensor& images, at::Generator& generator);

/// Each image flipped horizontally with probability 0.5.
at::Tensor flipped(const at::Tensor& images, at::Generator& generator);

}  // namespace backstop::badencoder
