# SPDX-License-Identifier: MIT
# Curves of several runs over the steps: the mean over the seeds, and a band from the lowest to the highest seed.
#
#   input    CSV with a header line and the columns run,seed,step,value; every seed of a run has the same steps
#   output   name of the pictures, without .svg and .png
#   xlabel   (optional) what a step is
#   ylabel   (optional) what the value is, with its unit, "loss (nats)"
#   logy     (optional) 1 for a logarithmic axis
#
#   gnuplot -e "input='training.csv'; output='training'" training.gp

if (!exists("input")) input = "training.csv"
if (!exists("output")) output = "training"
if (!exists("xlabel")) xlabel = "training step"
if (!exists("ylabel")) ylabel = "loss"
if (!exists("logy")) logy = 0

array color[6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]
list(column) = sprintf("awk -F, 'NR > 1 && !seen[$%d]++ { print $%d }' '%s'", column, column, input)
runs = system(list(1))
band(run) = sprintf("< awk -F, -v run='%s' 'NR > 1 && $1 == run { if (!n[$3]++) { step[++m] = $3; low[$3] = high[$3] = $4 } sum[$3] += $4; if ($4 < low[$3]) low[$3] = $4; if ($4 > high[$3]) high[$3] = $4 } END { for (i = 1; i <= m; ++i) { s = step[i]; print s, low[s], high[s], sum[s] / n[s] } }' '%s'", run, input)

if (logy) set logscale y
set format y "%g"
set xlabel xlabel
set ylabel ylabel
set grid ytics lc rgb "#dddddd" lw 1
set border 3
set tics nomirror out
set key top right Left reverse samplen 3 noautotitle noenhanced
set style fill transparent solid 0.22 noborder

do for [format in "svg png"] {
  if (format eq "svg") { set terminal svg size 800,500 font "sans,18" background rgb "white" }
  else { set terminal pngcairo size 1200,750 font "sans,25" linewidth 1.5 }
  set output output . "." . format
  plot for [i = 1:words(runs)] band(word(runs, i)) using 1:2:3 with filledcurves lc rgb color[(i - 1) % 6 + 1], \
       for [i = 1:words(runs)] band(word(runs, i)) using 1:4 with lines lw 2.5 lc rgb color[(i - 1) % 6 + 1] \
           dt 1 + (i - 1) % 4 title word(runs, i)
}
