# SPDX-License-Identifier: MIT
# The frozen end-to-end shortcut of a few samples: its singular values in order, and its eigenvalues in the complex plane
# with the unit circle.
#
#   input    CSV with a header line and the columns sample,kind,index,real,imaginary: kind is "singular" (index from 1,
#            descending; imaginary 0) or "eigen"
#   output   name of the pictures, without .svg and .png
#
#   gnuplot -e "input='spectrum.csv'; output='spectrum'" spectrum.gp

if (!exists("input")) input = "spectrum.csv"
if (!exists("output")) output = "spectrum"

array color[6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
array shape[6] = [7, 5, 9, 11, 13, 4]
samples = system(sprintf("awk -F, 'NR > 1 && !seen[$1]++ { print $1 }' '%s'", input))
rows(sample, kind) = sprintf("< awk -F, 'NR > 1 && $1 == \"%s\" && $2 == \"%s\"' '%s'", sample, kind, input)

set datafile separator comma
set border 3
set tics nomirror out
set grid lc rgb "#dddddd" lw 1
set parametric
set trange [0:2 * pi]
set samples 200

do for [format in "svg png"] {
  if (format eq "svg") { set terminal svg size 1000,480 font "sans,18" background rgb "white"; point = 0.45 }
  else { set terminal pngcairo size 1500,720 font "sans,25" linewidth 1.5; point = 1 }
  set output output . "." . format
  set multiplot
  set tmargin at screen 0.96
  set bmargin at screen 0.19

  set lmargin at screen 0.125
  set rmargin at screen 0.485
  set key inside top right vertical noautotitle Left reverse samplen 2
  set size noratio
  set xrange [0.5:*]
  set yrange [0:*]
  set xtics autofreq
  set ytics autofreq
  set xlabel "number, in descending order"
  set ylabel "singular value"
  plot for [i = 1:words(samples)] rows(word(samples, i), "singular") using 3:4 with linespoints lw 1.5 \
      pt shape[(i - 1) % 6 + 1] ps 1.5 * point lc rgb color[(i - 1) % 6 + 1] title "sample " . word(samples, i)

  set lmargin at screen 0.61
  set rmargin at screen 0.98
  unset key
  set size ratio -1
  set xrange [-1.1:1.1]
  set yrange [-1.1:1.1]
  set xtics 0.5
  set ytics 0.5
  set xlabel "real part of an eigenvalue"
  set ylabel "imaginary part"
  plot cos(t), sin(t) with lines lw 1.5 lc rgb "#555555", \
       for [i = 1:words(samples)] rows(word(samples, i), "eigen") using 4:5 with points \
           pt shape[(i - 1) % 6 + 1] ps 1.5 * point lc rgb color[(i - 1) % 6 + 1]
  unset multiplot
}
